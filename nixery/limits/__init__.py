"""How much a client may take: requests, connections, builds, and which packages."""
