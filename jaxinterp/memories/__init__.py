"""Feed-forward layers as key–value memories: what activates each neuron, and what it then writes."""
