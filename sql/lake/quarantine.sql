-- What did not fit and still counts: records that were left out, and values that became null.
--
-- A record counts while its read covers its read target or its day. If the read was refused because
-- too much of it did not fit, the record counts until a newer read covers.
--
-- grain: one row per stream, read target, column, path, reason, and whether the record was lost
-- zone:  instants are UTC, by Lean's clock
-- columns:
--   stream           The stream.
--   parent_id        Read target: an account, an entity or a fixed name.
--   entity_id        The entity; null where the read target has no entity.
--   bank_identifier  Its bank.
--   column_name      The column that could not be read.
--   path             Where its value stands in the record; null where unknown.
--   reason           Why it could not be read, without the value.
--   is_record_lost   Whether the record was left out; otherwise only the value became null.
--   record_count     Records.
--   first_seen_at    When a read first found this problem of the read target, UTC, by Lean's clock.
--   last_seen_at     When a read last found it, UTC, by Lean's clock.
with records as (

    select
        stream,
        series_id,
        page_number,
        record_number,
        column_name,
        path,
        reason,
        strftime(placed_on, '%Y-%m') as placed_in,
        coalesce(is_lost, true) as is_record_lost
    from quarantined_records

),

reads as (

    select
        stream,
        series_id,
        pull_id,
        parent_id,
        entity_id,
        bank_identifier,
        month,
        coalesce(refreshed_at, known_at, asked_at) as bank_asked_at,
        coalesce(known_at, asked_at) as lean_asked_at,
        coalesce(generation, 0) as made,
        outcome,
        code
    from pulls
    where
        (outcome = 'COMMITTED' or code = 'RECORDS_UNFIT')
        and covers is null
        and (stream, series_id) in (select (records.stream, records.series_id) from records)

),

-- Reads that still count. A merged pull represents the paged read that its series_id names.
counting as (

    select
        pulls.stream,
        pulls.series_id,
        claims.month,
        -- The first quarantine stays when a record is typed again and fits.
        pulls.quarantined > 0 or pulls.unfit_dates is not null as is_unfit
    from claims
    inner join pulls on claims.pull_id = pulls.pull_id

    union

    select
        reads.stream,
        reads.series_id,
        reads.month,
        true as is_unfit
    from reads
    left join claims
        on
            reads.stream = claims.stream
            and reads.parent_id = claims.parent_id
            and reads.month is not distinct from claims.month
    left join pulls on claims.pull_id = pulls.pull_id
    where
        reads.code = 'RECORDS_UNFIT'
        and (
            claims.pull_id is null
            or (reads.bank_asked_at, reads.lean_asked_at, reads.made) > (
                coalesce(pulls.refreshed_at, pulls.known_at, pulls.asked_at),
                coalesce(pulls.known_at, pulls.asked_at),
                coalesce(pulls.generation, 0)
            )
        )

),

-- A read may have become many pulls, one per month; a record belongs to one of these.
found as (

    select
        reads.*,
        records.column_name,
        records.path,
        records.reason,
        records.is_record_lost,
        records.page_number,
        records.record_number,
        bool_or(
            counting.series_id is not null
            and (counting.is_unfit or not records.is_record_lost)
            and (
                records.placed_in is null
                or counting.month is null
                or counting.month = records.placed_in
                -- The day lies outside the read: any pull of the read represents the record.
                or records.placed_in not in (
                    select within.month
                    from reads as within
                    where
                        within.stream = records.stream
                        and within.series_id = records.series_id
                        and within.month is not null
                )
            )
        ) as is_current
    from records
    inner join reads on records.stream = reads.stream and records.series_id = reads.series_id
    left join counting
        on
            reads.stream = counting.stream
            and reads.series_id = counting.series_id
            and reads.month is not distinct from counting.month
    group by all

)

select
    stream,
    parent_id,
    any_value(entity_id) as entity_id,
    any_value(bank_identifier) as bank_identifier,
    column_name,
    path,
    reason,
    is_record_lost,
    count(distinct series_id || ' ' || page_number || ' ' || record_number) filter (
        where is_current
    ) as record_count,
    min(bank_asked_at) as first_seen_at,
    max(bank_asked_at) as last_seen_at
from found
group by stream, parent_id, column_name, path, reason, is_record_lost
having bool_or(is_current)
