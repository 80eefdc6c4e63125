-- Pulls whose rows were merged into larger files, and the newest pull that replaces them.
--
-- wanted_months is null for all months. A merged pull names in covers the pulls that it replaces:
-- first the merged pull before it, if covers_from is above 1, and then the pulls that were new.
-- Following the merged pulls back gives all of them.
-- merged: the pull that stood for them before, if covers_from is above 1, and then the pulls that
-- were new. Following the former gives all of them.
--
-- parameters: wanted_months
-- grain: one row per pull
with recursive heads as (

    select
        pull_id,
        stream,
        parent_id,
        month,
        covers,
        covers_from,
        coalesce(generation, 0) as made,
        case when generation is null then pull_id else substr(pull_id, 15) end as tie
    from pulls
    where
        covers is not null
        and outcome = 'COMMITTED'
        and (wanted_months is null or list_contains(wanted_months, month))  -- noqa: RF02

),

newest as (

    select arg_max(pull_id, (made, tie)) as merged_id
    from heads
    group by stream, parent_id, month

),

chain as (

    select
        newest.merged_id,
        newest.merged_id as link_id
    from newest

    union all

    select
        chain.merged_id,
        heads.covers[1] as link_id
    from chain
    inner join heads on chain.link_id = heads.pull_id
    where heads.covers_from > 1

)

select
    heads.stream,
    unnest(heads.covers) as pull_id,
    chain.merged_id,
    -- The merged pull before it gets no number of its own.
    (
        generate_subscripts(heads.covers, 1)
        + heads.covers_from
        - case when heads.covers_from > 1 then 2 else 1 end
    )::integer as sequence_no
from chain
inner join heads on chain.link_id = heads.pull_id
