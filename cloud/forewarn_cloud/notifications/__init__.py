"""What people are told: the words of each message. How it travels is for the adapters, when for the relay."""
