"""The metadata service: what a guest asks at 169.254.169.254 (EC2's paths and OpenStack's)."""
