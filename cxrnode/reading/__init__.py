"""Reading: bundles, the network, the engine. Only here, and in training, is torch loaded."""
