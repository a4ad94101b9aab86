"""What the end-to-end tests are made of: a real Envoy, scripted services, raw clients."""
