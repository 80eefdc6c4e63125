-- Whether a movement was not understood: its direction, its category or its kind is not known.
create or replace macro is_opaque(direction, category, transaction_type, sub_transaction_type) as
direction is null
or coalesce(category, 'UNKNOWN') in ('UNKNOWN', 'UNSUPPORTED')
or (
    coalesce(transaction_type, 'UNSUPPORTED') in ('UNSUPPORTED', 'UNKNOWN')
    and coalesce(sub_transaction_type, 'UNSUPPORTED') in ('UNSUPPORTED', 'UNKNOWN')
);
