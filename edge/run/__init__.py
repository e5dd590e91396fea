"""The run face: an engine turns frames into labels, on the device."""
