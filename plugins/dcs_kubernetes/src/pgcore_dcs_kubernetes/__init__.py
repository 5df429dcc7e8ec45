"""The Kubernetes API as a configuration store (section ``kubernetes``), and the role labels of pods."""
