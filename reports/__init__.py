"""The report formats: one module a format, each a function from the report model to text."""
