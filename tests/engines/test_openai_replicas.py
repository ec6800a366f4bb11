"""Several servers behind one client: who gets which request, and what happens when one dies."""

import asyncio

import pytest
from aiohttp import web
from openai_server import Server, answer, chat, running

from generators.engines import openai as client_module
from generators.engines.base import (
    EngineError,
    Prepared,
    PromptTooLong,
)
from generators.engines.replicas import Replica, choose, parse_base_urls


def test_a_group_stays_with_its_replica_and_a_dead_one_moves_only_its_own():
    replicas = parse_base_urls([f"http://host{i}" for i in range(4)])
    for replica in replicas:
        replica.up, replica.window = True, 10
    groups = [f"document-{i}" for i in range(400)]
    before = {group: choose(replicas, group) for group in groups}
    assert all(60 < list(before.values()).count(replica) < 140 for replica in replicas)
    replicas[2].up = False
    after = {group: choose(replicas, group) for group in groups}
    assert all(after[group] is before[group] for group in groups if before[group] is not replicas[2])
    replicas[2].up = True
    assert {group: choose(replicas, group) for group in groups} == before


def test_a_group_does_not_depend_on_the_order_of_the_urls():
    names = ["http://a", "http://b", "http://c"]
    one, two = parse_base_urls(names), parse_base_urls(names[::-1])
    for replica in one + two:
        replica.up, replica.window = True, 10
    for i in range(50):
        assert choose(one, f"g{i}").root == choose(two, f"g{i}").root


def test_ungrouped_requests_go_where_the_fewest_are_in_flight():
    replicas = parse_base_urls(["http://a", "http://b"])
    for replica in replicas:
        replica.up, replica.window = True, 10
    replicas[0].in_flight = 1
    assert choose(replicas, None) is replicas[1]


def test_when_all_are_left_out_those_that_once_served_the_model_are_tried():
    replicas = parse_base_urls(["http://a", "http://b"])
    replicas[1].window = 10
    assert choose(replicas, None) is replicas[1]


def test_requests_of_one_group_reach_one_server_and_others_spread():
    servers = [Server(), Server(), Server()]

    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(0.05)
        return web.json_response(answer())

    for server in servers:
        server.reply = slow

    async def main():
        async with running(*servers) as client:
            await asyncio.gather(*(client.generate(Prepared(chat(group="g"), 1)) for _ in range(6)))
            grouped = sorted(len(server.generated()) for server in servers)
            await asyncio.gather(*(client.generate(Prepared(chat(), 1)) for _ in range(6)))
            return grouped, sorted(len(server.generated()) for server in servers)

    assert asyncio.run(main()) == ([0, 0, 6], [2, 2, 8])


def test_a_server_that_dies_is_left_out_and_comes_back(monkeypatch, caplog):
    monkeypatch.setattr(client_module, "LEFT_OUT_SECONDS", (0.05, 0.2))
    servers = [Server(), Server()]

    async def main():
        async with running(*servers) as client:
            home: Replica = choose(client._replicas, "g")
            own = next(server for server in servers if server.url == str(home))
            await own.down()
            with pytest.raises(EngineError):
                await client.generate(Prepared(chat(group="g"), 1))
            assert not home.up
            assert (await client.generate(Prepared(chat(group="g"), 1))).text == "hello"  # the other one
            assert own.generated() == []
            await asyncio.sleep(0.3)
            assert not home.up
            await own.up()
            for _ in range(100):
                if home.up:
                    break
                await asyncio.sleep(0.02)
            await client.generate(Prepared(chat(group="g"), 1))
            return len(own.generated())

    assert asyncio.run(main()) == 1
    assert caplog.text.count("left out") == 1


@pytest.mark.parametrize("wrong", [web.Response(status=500), web.Response(text="{}"), web.Response(text="busy")])
def test_a_server_that_is_wrong_for_ever_is_asked_ever_less(monkeypatch, caplog, wrong):
    """It lists its models, so it is taken in again and again, each time later: the other one answers meanwhile."""
    monkeypatch.setattr(client_module, "LEFT_OUT_SECONDS", (0.05, 60))
    servers = [Server(), Server()]

    async def nonsense(request: web.Request) -> web.Response:
        return web.Response(status=wrong.status, text=wrong.text)

    async def main():
        async with running(*servers) as client:
            home: Replica = choose(client._replicas, "g")
            own = next(server for server in servers if server.url == str(home))
            own.reply = nonsense
            answers = 0
            for _ in range(100):
                try:
                    answers += (await client.generate(Prepared(chat(group="g"), 1))).text == "hello"
                except EngineError as error:
                    assert str(home.chat) in str(error)
                    assert not home.up
                await asyncio.sleep(0.01)
            return answers, len(own.generated())

    answers, wrong_ones = asyncio.run(main())
    assert answers + wrong_ones == 100 and 2 <= wrong_ones <= 6
    assert caplog.text.count("is left out") == wrong_ones


def test_a_server_that_is_dead_at_start_is_taken_in_later(monkeypatch):
    monkeypatch.setattr(client_module, "LEFT_OUT_SECONDS", (0.05, 0.2))
    living, dead = Server(window=1000), Server(window=500)

    async def main():
        await dead.up()
        await dead.down()
        await living.up()
        async with running(base_urls=(living.url, dead.url)) as client:
            info = await client.start()
            assert (info.max_model_len, info.max_batch) == (1000, 256)
            for i in range(8):
                await client.generate(Prepared(chat(group=f"g{i}"), 1))
            await dead.up()
            for _ in range(100):
                if client._replicas[1].up:
                    break
                await asyncio.sleep(0.02)
            with pytest.raises(PromptTooLong):  # its window is the shorter one, and counts from now on
                await client.prepare(chat(("user", "x" * 495)))
            for i in range(8):
                await client.generate(Prepared(chat(group=f"g{i}"), 1))
        await living.down()
        await dead.down()

    asyncio.run(main())
    assert dead.generated()


def test_a_returning_server_with_another_model_stays_out(monkeypatch, caplog):
    monkeypatch.setattr(client_module, "LEFT_OUT_SECONDS", (0.02, 0.02))
    servers = [Server(), Server()]

    async def main():
        async with running(*servers) as client:
            await servers[0].down()
            with pytest.raises(EngineError):
                await client._post(client._replicas[0], client._replicas[0].chat, {})
            servers[0].models = ("other",)
            await servers[0].up()
            await asyncio.sleep(0.2)
            assert not client._replicas[0].up

    asyncio.run(main())
    assert "does not serve the model 'm'" in caplog.text


def test_the_only_server_is_tried_again_at_once():
    server = Server()

    async def main():
        async with running(server) as client:
            await server.down()
            with pytest.raises(EngineError):
                await client.generate(Prepared(chat(), 1))
            await server.up()
            return await client.generate(Prepared(chat(), 1))

    assert asyncio.run(main()).text == "hello"
