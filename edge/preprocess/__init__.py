"""Image preprocessing: the steps of a checkpoint's image processor, bit-exact on CPU and GPU."""
