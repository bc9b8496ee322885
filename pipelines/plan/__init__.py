"""The plan: what a cluster would bring, predicted."""
