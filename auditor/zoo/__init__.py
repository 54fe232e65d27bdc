"""The ChromeOS ML model zoo: what its models are, where they come from, and what stands in for them."""
