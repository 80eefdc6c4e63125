-- Whether two files share a value of a column, or may share it. Parquet keeps the least and the
-- greatest value of a column, so that no row is read.
--
-- grain: one row
with ranges as (

    select
        min(cast(stats_min_value as $type)) as low,
        max(cast(stats_max_value as $type)) as high,
        count(*) = count(stats_min_value) and count(*) = count(stats_max_value) as is_known
    from parquet_metadata($paths)
    where path_in_schema = $column
    group by file_name

)

select coalesce(bool_or(not is_known or low <= before), false) as is_overlapping
from (
    select
        *,
        lag(high) over (order by low) as before
    from ranges
) as ordered
