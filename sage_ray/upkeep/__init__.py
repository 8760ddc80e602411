"""What of a home is still needed, and what can go."""
