"""A plug-in of crosml-audit."""
