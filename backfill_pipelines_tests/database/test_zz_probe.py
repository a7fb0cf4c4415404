import pytest, sqlalchemy as sa, time
@pytest.mark.parametrize("i", range(12))
def test_x(product_tables, i):
    with product_tables.begin() as c:
        print(c.execute(sa.text("select count(*) from information_schema.tables where table_schema in ('public','backfill')")).scalar())
        assert c.execute(sa.text("show timezone")).scalar()=="UTC"
