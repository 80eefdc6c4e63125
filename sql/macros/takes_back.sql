-- Whether a bank calls a movement a reversal, by its sub-type; false without a sub-type.
create or replace macro takes_back(sub_type) as
coalesce(sub_type in ('REVERSAL', 'WITHDRAWAL_REVERSAL', 'DEPOSIT_REVERSAL'), false);
