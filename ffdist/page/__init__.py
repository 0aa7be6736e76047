"""A run as a page of HTML: written once by `ffdist report`, served live by `ffdist watch`."""
