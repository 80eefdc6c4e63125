-- Pulls whose rows were merged into larger files, and the newest pull that stands for those.
--
-- A pull that merged files stands for is committed like any other and claims the same days as the
-- newest of those it covers. What it covers may have been merged before; the newest one counts.
--
-- grain: one row per pull
with covering as (

    select
        stream,
        pull_id as merged_id,
        unnest(covers) as pull_id,
        generate_subscripts(covers, 1) as place
    from pulls
    where covers is not null and outcome = 'COMMITTED'

)

select
    covering.stream,
    covering.pull_id,
    max(covering.merged_id) as merged_id,
    arg_max(covering.place, covering.merged_id)::integer as place
from covering
group by covering.stream, covering.pull_id
