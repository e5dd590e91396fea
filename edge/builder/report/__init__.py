"""What a build found, in a page for people; and what a compiled plan proves."""
