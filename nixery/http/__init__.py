"""The HTTP side: server, authentication, and what is served."""
