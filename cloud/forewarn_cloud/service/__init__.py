"""The service chain: from an advisory to a completed order. Pure domain, spoken to through `ports`."""
