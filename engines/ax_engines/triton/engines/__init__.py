"""One file per engine; each is imported only where its engine runs, and imports the engine's library at use."""
