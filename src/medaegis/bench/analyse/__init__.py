"""What an attack does inside a network, as the figures of the papers show it: computations, drawing, a page."""
