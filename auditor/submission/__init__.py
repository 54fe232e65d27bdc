"""Submissions: what a vendor signs and a reviewer verifies. Envelopes and keys, the bundle, redaction."""
