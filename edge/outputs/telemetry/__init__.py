"""MQTT, Prometheus metrics and board sensors."""
