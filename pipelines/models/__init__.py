"""The models: SQL files that become Parquet files."""
