"""The published defences that Box-NN is compared with: randomized ablation and feature partition."""
