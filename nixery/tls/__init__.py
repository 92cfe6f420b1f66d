"""TLS: the certificate, what is spoken with it, and how it is renewed."""
