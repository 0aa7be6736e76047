"""The suites of `ffdist bench`, each in its file."""
