"""Networks that can be trained, and the description from which each is built again."""
