"""TLS: certificates and endpoints."""
