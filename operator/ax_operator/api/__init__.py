"""The API of group serving.axmodel.io: three kinds as frozen models, from which the CRDs are generated."""
