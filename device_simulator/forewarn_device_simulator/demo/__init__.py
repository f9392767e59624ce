"""The whole way on one machine: broker, cloud, two agents and a wearing fleet as processes, and people who act."""
