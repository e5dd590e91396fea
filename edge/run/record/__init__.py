"""What is kept of a run: snapshots on rules, labelled video; and labels that do not flicker."""
