"""
Fast tests that need neither Nix nor network.

Properties are tried with the same examples in each run, however slow the machine is:
``tests/run fuzz`` is what looks for new ones.
"""

from hypothesis import HealthCheck, settings

settings.register_profile(
    "unit",
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("unit")
