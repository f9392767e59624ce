"""Machines with physics, wear, faults and ground truth: datasets, live fleets and the demo."""
