"""Quotas, admission control and package rules."""
