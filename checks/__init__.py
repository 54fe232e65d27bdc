"""The checks: one module a requirement. Open the requirement you care about first."""
