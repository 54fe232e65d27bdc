"""The few questions one may put to a device, and the places that can answer them."""
