"""The descriptor set of Envoy's API, `envoy.binpb`, and the Go program that generates it.

`go run . envoy.binpb` in this folder writes it anew. The types are those of github.com/envoyproxy/go-control-plane
(Apache-2.0), at the version that go.mod pins.
"""
