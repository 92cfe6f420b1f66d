"""Pages as people have them: a real browser, a real registry."""
