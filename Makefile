.PHONY: demo demo-stop test bench

demo:
	@cargo xtask demo

demo-stop:
	@cargo xtask demo-stop

test:
	@cargo xtask test

bench:
	@cargo xtask bench
