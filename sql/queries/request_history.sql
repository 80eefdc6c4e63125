-- What reads of each bank and stream took lately, to estimate those to come: the days of the ledger
-- since $since. Requests stand on the first pull of a read.
--
-- wall_us is how long a run took for the stream, of all banks and runs together.
--
-- grain: one row per bank and stream
with reads as (

    select
        coalesce(bank_identifier, '') as bank_identifier,
        stream,
        coalesce(run_id, '') as run_id,
        requests,
        asked_at,
        finished_at
    from all_pulls
    where requests > 0 and finished_at >= $since

),

runs as (

    select
        stream,
        run_id,
        epoch_us(max(finished_at)) - epoch_us(min(asked_at)) as wall_us,
        sum(requests) as requests
    from reads
    group by all

),

paces as (

    select
        stream,
        sum(wall_us) / sum(requests) as us_per_request
    from runs
    group by stream

)

select
    reads.bank_identifier,
    reads.stream,
    (sum(reads.requests) / count(*))::double as requests_per_read,
    any_value(paces.us_per_request)::double as us_per_request
from reads
inner join paces on reads.stream = paces.stream
group by all
