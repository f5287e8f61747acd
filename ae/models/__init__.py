"""Networks: autoencoder, encoders, bottlenecks, decoders, heads, priors, and what is done to modules of any kind."""
