"""What `ffdist bench` measures, a suite a file."""
