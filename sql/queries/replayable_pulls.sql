-- Pulls of a stream that a replay makes again: committed pulls that still cover something, and the
-- newest refused pull of each read target and month. A refused pull replaced nothing because too
-- much of it did not fit. It is left out if a newer pull covers.
--
-- grain: one row per pull
with candidates as (

    select distinct
        pulls.pull_id,
        pulls.parent_id,
        pulls.month,
        pulls.outcome
    from pulls
    left join claims
        on
            pulls.stream = claims.stream
            and pulls.parent_id = claims.parent_id
            and pulls.month is not distinct from claims.month
    left join pulls as covering on claims.pull_id = covering.pull_id
    where
        pulls.stream = $stream
        and (
            (
                pulls.outcome = 'COMMITTED'
                and pulls.pull_id in (select known.pull_id from claims as known)
            )
            or (
                pulls.code = 'RECORDS_UNFIT'
                and coalesce(
                    (pulls.refreshed_at, pulls.known_at, coalesce(pulls.generation, 0))
                    > (covering.refreshed_at, covering.known_at, coalesce(covering.generation, 0)),
                    true
                )
            )
        )

)

select pull_id
from candidates
qualify
    outcome <> 'FAILED'
    or pull_id = max(pull_id) over (partition by parent_id, month, outcome)
