"""What is spoken over HTTP: the registry, the builds, the pages."""
