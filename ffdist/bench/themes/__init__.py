"""What `ffdist bench` measures, a theme a file."""
