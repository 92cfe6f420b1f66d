"""How a closure is cut into layers, and the data and pictures that go with it."""
