"""Pages for people, and the streams and assets that belong to them."""
