"""ImageExampleGen: images of any archive as an Examples artifact."""
