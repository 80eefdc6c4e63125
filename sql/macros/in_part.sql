-- Whether a day lies in the month that is being built, so that a model which reads its neighbours
-- too need not work on rows that it would drop in the end. Every day does where a model is not
-- built by month. It is the month that the model is stored by, whatever calendar that is.
create or replace macro in_part(input) as
input between coalesce(getvariable('part_from'), input) and coalesce(getvariable('part_to'), input);
